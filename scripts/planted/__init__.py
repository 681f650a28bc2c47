"""Planted painters: stand-ins for a model whose every error is known, because it was put there.

A real model's picture cannot be graded by itself: nobody knows what it should have been. A planted painter's can. It is asked as a model is asked,
by a ``PaintRequest`` with the crop at the model's size, and answers with pixels of that size; the harness knows what it meant (``fills``), which
error it added (``flaws``), and so what the output has to be. The report's own measures are nowhere used to grade: they are graded.

    python -m scripts.planted [--photos N] [--operations inpaint,erase] [--painters perfect,truth]

runs them through ``worker.intake.prepare``, ``worker.rounds.Rounds`` and ``worker.report.Examiner``, without a queue, and prints a table.
"""
