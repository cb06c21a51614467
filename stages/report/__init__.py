"""report: scores, curves and examples as Markdown and one HTML file."""
