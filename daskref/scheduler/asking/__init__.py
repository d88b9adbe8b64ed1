"""What the scheduler asks other processes, and keeps of their answers.

``counts`` keeps what processes have counted, those that have ended too; ``survey`` asks
hosts and processes about single objects, for at most some seconds.
"""
