"""One folder a group of architectures, one file a family; the registry walks this folder."""
