"""A small Singer tap as a program: what it does is in its configuration. Standard library only."""

import json
import os
import subprocess
import sys
import time


def say(**message):
    print(json.dumps(message), flush=True)


def option(name):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


def main():
    with open(option("--config")) as file:
        config = json.load(file)
    mode = config.get("mode", "records")
    if "--discover" in sys.argv:
        if mode == "plain":
            sys.exit("unknown option --discover")
        print(json.dumps({"streams": [{"stream": "order_lines", "schema": {"properties": {}}}]}))
        return
    if config.get("newer") and option("--properties"):
        sys.exit(2)
    catalog = option("--properties") or option("--catalog")
    if mode != "plain":
        with open(catalog) as file:
            assert json.load(file)["streams"][0]["selected"] is True
    state = {"at": 0}
    if option("--state"):
        with open(option("--state")) as file:
            state = json.load(file)
    first = state["at"] + 1
    if mode == "look":
        facts = {
            "id": "look",
            "cwd_mode": oct(os.stat(".").st_mode & 0o777),
            "config_mode": oct(os.stat("config.json").st_mode & 0o777),
            "environment": sorted(os.environ),
            "session": os.getsid(0) == os.getpid(),
            "group": os.getpgid(0) == os.getpid(),
            "input": os.readlink("/proc/self/fd/0"),
            "descriptors": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
            "pid": os.getpid(),
        }
        say(type="RECORD", stream="look", record=facts)
    elif mode == "crash":
        print(f"cannot log in with {config['password']}\x1b[31m", file=sys.stderr)
        sys.exit(3)
    elif mode == "memory":
        say(type="RECORD", stream="m", record={"id": "m", "size": len(bytearray(1 << 30))})
    elif mode == "flood":
        say(type="RECORD", stream="s", record={"id": "before"})
        sys.stderr.write("noise " * 100_000)
        for _ in range(20):
            print("x" * 500_000)
        print('{"type":"RECORD","stream":"s","record":{"id":"' + "y" * 5_000_000 + '"}}')
        say(type="RECORD", stream="s", record={"id": "after"})
        say(type="STATE", value={"at": 99})
    elif mode == "hang":
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
        say(type="RECORD", stream="s", record={"id": config["name"], "pids": [os.getpid(), child.pid]})
        say(type="STATE", value={"at": 1})
        time.sleep(600)
    else:
        say(type="SCHEMA", stream="order_lines", schema={}, key_properties=["id"])
        for number in range(first, first + 3):
            say(type="RECORD", stream="order_lines", record={"id": number, "from": first})
        say(type="STATE", value={"at": first + 2})


main()
