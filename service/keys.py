"""Makes API keys and webhook secrets, and the settings entry that makes them known."""

from __future__ import annotations

import base64
import secrets

from service.auth import hash_key


def new_key() -> str:
    """A random API key."""
    return f"of_{secrets.token_urlsafe(30)}"


def new_webhook_secret() -> str:
    """A random secret for Standard Webhooks."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def settings_entry(tenant: str, key: str, webhook_secret: str) -> dict[str, str]:
    """One element of ``OUTFILL_AUTH__KEYS``."""
    return {"tenant": tenant, "key_sha256": hash_key(key), "webhook_secret": webhook_secret}
