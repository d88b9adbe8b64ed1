"""Programs that end in many ways; ``test_exits`` compares daskref with plain Dask."""

from __future__ import annotations

#: What a program does with ``Client``, before it ends.
PROGRAMS = {
    "nothing is closed": """
        client = Client(n_workers=1, dashboard_address=":0")
        print(client.submit(len, b"x" * 5_000_000).result())
    """,
    "neither client nor cluster is closed": """
        cluster = distributed.LocalCluster(n_workers=2, dashboard_address=":0")
        client, other = Client(cluster), distributed.Client(cluster)
        future = client.submit(np.multiply, np.ones(2_000_000), 3)
        print(future.result().sum())
    """,
    "the cluster is not closed": """
        cluster = distributed.LocalCluster(n_workers=1, dashboard_address=":0")
        with Client(cluster) as client:
            print(client.submit(np.sum, np.ones(500_000)).result())
    """,
    "the cluster is closed first": """
        cluster = distributed.LocalCluster(n_workers=1, dashboard_address=":0")
        client = Client(cluster)
        print(client.submit(np.sum, np.ones(500_000)).result())
        cluster.close()
        client.close()
    """,
    "threads": """
        client = Client(n_workers=2, processes=False, dashboard_address=":0")
        print(client.submit(np.sum, np.ones(500_000)).result())
    """,
    "two clients": """
        cluster = distributed.LocalCluster(
            n_workers=1, processes=False, dashboard_address=":0"
        )
        clients = [Client(cluster), Client(cluster)]
        for client in clients:
            print(client.submit(np.sum, np.ones(500_000)).result())
    """,
    "futures are alive": """
        client = Client(n_workers=1, processes=False, dashboard_address=":0")
        future = client.submit(np.ones, 500_000)
        scattered = client.scatter(np.ones(400_000))
        print(future.result().sum(), scattered.result().sum())
    """,
    "an exception": """
        client = Client(n_workers=1, processes=False, dashboard_address=":0")
        print(client.submit(np.sum, np.ones(500_000)).result())
        1 / 0
    """,
    "sys.exit": """
        client = Client(n_workers=1, processes=False, dashboard_address=":0")
        future = client.submit(np.sum, np.ones(500_000))
        future.result()
        sys.exit(3)
    """,
    "Ctrl-C": """
        client = Client(n_workers=1, dashboard_address=":0")
        print(client.submit(np.sum, np.ones(500_000)).result())
        signal.raise_signal(signal.SIGINT)
    """,
    "SIGTERM": """
        client = Client(n_workers=1, processes=False, dashboard_address=":0")
        print(client.submit(np.sum, np.ones(500_000)).result())
        signal.raise_signal(signal.SIGTERM)
    """,
    "a notebook's kernel restarts": """
        client = Client(n_workers=1, dashboard_address=":0")
        print(client.submit(np.sum, np.ones(500_000)).result())
        atexit._run_exitfuncs()
        os._exit(0)
    """,
    "asynchronous": """
        async def main():
            async with Client(
                n_workers=1, processes=False, asynchronous=True, dashboard_address=":0"
            ) as client:
                print(await client.submit(np.sum, np.ones(500_000)))

        asyncio.run(main())
    """,
    "asynchronous, nothing is closed": """
        async def main():
            client = await Client(
                n_workers=1, processes=False, asynchronous=True, dashboard_address=":0"
            )
            print(await client.submit(np.sum, np.ones(500_000)))

        asyncio.run(main())
    """,
    "asynchronous, processes, nothing is closed": """
        async def main():
            client = await Client(
                n_workers=2, asynchronous=True, dashboard_address=":0"
            )
            print(await client.submit(np.sum, np.ones(500_000)))
            await client.scatter(np.ones(500_000))

        asyncio.run(main())
    """,
    "a thread goes on": """
        client = Client(n_workers=1, dashboard_address=":0")
        begun = threading.Event()

        def work():
            for i in range(100):
                client.submit(np.sum, np.ones(500_000) + i).result()
                begun.set()

        threading.Thread(target=work, daemon=True).start()
        begun.wait(30)
    """,
}

#: Those that are tried each time.
FREQUENT = [
    "nothing is closed",
    "neither client nor cluster is closed",
    "asynchronous, processes, nothing is closed",
    "threads",
    "two clients",
    "Ctrl-C",
]
