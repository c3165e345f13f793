"""What monitors would have said of recorded events: `inferometer backtest`.

run.py    files through decode, sketch, fold and judge, as live
text.py   "would have paged N times", for people
html.py   the timeline as one page without anything from elsewhere
png.py    the same as a picture, where matplotlib is installed
"""
