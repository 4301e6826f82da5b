"""Published weights: on disk (``store``, ``layout``), in memory (``cache``), and whether they fit (``check``)."""
