"""SVFit in PEFT's own comparison of methods on FLUX.2 klein; see __main__.py."""
