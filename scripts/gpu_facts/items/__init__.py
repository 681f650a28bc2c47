"""The questions to the device, a module each, in the order in which they are asked."""
