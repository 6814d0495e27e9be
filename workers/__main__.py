"""`python -m workers worker …`, or `flower`: Celery, with our log from its first line on."""

import os
import sys

from celery.__main__ import main

from workers import logs
from workers.settings import load

if __name__ == "__main__":
    logs.configure(load(), os.environ, "flower" if "flower" in sys.argv else "worker")
    main()
