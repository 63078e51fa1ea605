"""Tasks on weights beside columns of the model table, one file each; the registry walks this folder."""
