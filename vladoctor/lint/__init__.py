"""Reading a loop's source: the same facts as `vladoctor.facts`, seen without running anything. See docs/lint.md."""
