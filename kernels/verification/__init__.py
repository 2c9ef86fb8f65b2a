"""Tools that verify any Triton kernel on a machine without a GPU. README.md tells how each is used."""
