"""Stages on EC2 instances: one job, one set of instances, nothing reused.

    spec.py       what is asked for: a run, its candidates, its limits           catalog.py  types, prices, quota codes
    plan.py       resources -> candidates in order, with cost                    aws.py      clients, classes of errors
    store.py      the run's corner of the bucket: intents, lease, epoch, logs    launch.py   intent -> RunInstances -> reconcile
    shortage.py   what one refusal says about other candidates
    budget.py     worst case reserved before a launch, settled after             reducer.py  pure: state + observation -> actions
    controller.py the thin shell round the reducer                               reaper.py   ends what its deadline tag says
    follower.py   lines and metrics over all attempts
    bundle.py     the exact code                                                 runner.py   the seam to the flow
    node/         what runs on an instance

All truth is in the bucket and in tags: any process can take a run over. Nothing here knows Prefect or DVC's Python API.
"""
