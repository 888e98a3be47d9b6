"""Looking at a run before it starts: what would break it, and what would make its numbers mean nothing.

    run.yaml ── plan ── source (level 0, in this process)
                    ├── child: checkpoint (level 1) ─┐
                    ├── child: scene, probes         ├── items ── result ── show, JSON, exit status
                    └── child: trial (level 2, 3)   ─┘

Whatever can hang, crash or ask a question runs in a child process without stdin, each look with a time limit. What is
seen is put into the shape of a recorded episode wherever a check of the catalogue judges the same fact, so that there
is one judgement with several eyes: `vladoctor explain CODE` holds before a run as after it.
"""
