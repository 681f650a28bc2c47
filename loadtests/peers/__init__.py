"""Outfill beside its peers, from photo to photo: ``make race``."""
