"""Settings of every test, in this process and in those that it starts."""

import os

# Workers that run side by side must not each take every core; set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray reads this as it is imported, which a test of something else may be the first to do.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# No test may reach for weights in the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
