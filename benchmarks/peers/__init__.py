"""What hfstrat is measured against: each module is a program that takes a Job and prints one line of JSON."""
