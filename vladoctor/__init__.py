"""vladoctor finds what quietly breaks closed-loop evaluation of vision-language-action models."""

__version__ = "0.1.0"
