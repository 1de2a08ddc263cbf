"""How good the advice of `hfstrat advise` is, beside what comparisons of the same strategies find."""
