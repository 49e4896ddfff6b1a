def build_report(run):
    return run / "report.html"
