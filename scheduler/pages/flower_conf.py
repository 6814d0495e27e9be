"""Flower's own configuration file, executed by Flower before it starts.

Flower shows workers and tasks; it may start nothing (`read_only`), since its API can send any
task with any arguments and knows no roles. Without a sign-in it does not start. Campaigns have
pages and endpoints of our own (`scheduler.pages`).
"""

import os

from scheduler.pages import installing
from workers.logs import configure
from workers.settings import load

configure(load(), os.environ, "flower")
logging = "none"  # Tornado would set up its own, in colours

basic_auth = [sign_in] if (sign_in := os.environ.get("REWRAP_FLOWER_BASIC_AUTH")) else []
read_only = True
persistent = False  # its file is a pickle: who can write it runs code in Flower
max_tasks = 20000
purge_offline_workers = 60
auto_refresh = True
tasks_columns = "name,state,args,result,received,started,runtime,worker,uuid"

installing.install()
