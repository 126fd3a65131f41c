"""What all tests share."""

import os

from hypothesis import settings

pytest_plugins = ["tests.servers"]  # fixtures with the URLs of real servers, which start when one is asked for

# Wall-clock deadlines fail on a busy machine, and our time is virtual anyway: no profile has one.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
