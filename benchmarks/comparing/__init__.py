"""How `speed.py` compares hfstrat with its peers: what is asked, run, kept and written down."""
