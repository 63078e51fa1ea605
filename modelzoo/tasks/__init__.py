"""One file, one or a few registered tasks; the registry walks this folder."""
