"""web.service."""
