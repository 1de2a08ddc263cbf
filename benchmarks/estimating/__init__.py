"""How good the estimates of `hfstrat estimate` are."""
