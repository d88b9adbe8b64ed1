"""What the scheduler asks other processes, and keeps of their answers.

``requests`` end in time; ``counts`` keeps what processes have counted, those that have
ended too; ``survey`` asks hosts and processes about single objects.
"""
