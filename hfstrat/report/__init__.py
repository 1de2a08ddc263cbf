"""Reports: tables, plots, drawings and cards, read from run directories alone."""
