"""web.studio."""
