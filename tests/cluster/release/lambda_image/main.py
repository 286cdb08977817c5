"""The handler in the image of test_images.py: the event says what it does."""

import os
import time

calls = 0

if os.environ.get("BREAK"):
    raise ImportError("BREAK is set")


def handler(event, context):
    global calls
    calls += 1
    print("called with", event)
    match event.get("do"):
        case "sleep":
            time.sleep(event["seconds"])
        case "raise":
            raise ValueError("no such order")
        case "exit":
            os._exit(3)
    return {
        "calls": calls,
        "uid": os.getuid(),
        "name": context.function_name,
        "arn": context.invoked_function_arn,
        "memory": context.memory_limit_in_mb,
        "request_id": context.aws_request_id,
        "remaining": context.get_remaining_time_in_millis(),
        "greeting": os.environ.get("GREETING"),
        "kappa": [name for name in os.environ if name.startswith("KAPPA_")],
    }
