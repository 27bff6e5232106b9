"""Score one data set by many processes, each on the devices of its own machine.

Two processes on this machine, each of eight simulated devices:

    for i in 0 1; do
      python docs/examples/evaluate_processes.py --processes 2 --process $i \
        --coordinator 127.0.0.1:9876 &
    done; wait

Under SLURM or on a TPU pod JAX finds the others by itself:

    srun python docs/examples/evaluate_processes.py

Processes count alone, as many batches as they have, and meet once: at the end, to add up sums of a
few numbers. docs/distributed.md explains it.
"""

import operator
from functools import reduce

# It sets XLA's flags before JAX is imported.
from evaluate_sharded import check, evaluate, parser, report

# isort: split
import jax
import numpy as np
from jax.experimental import multihost_utils

import jaxseg


def sum_of_processes(state: jaxseg.Running) -> jaxseg.Running:
    """The same exact sum in every process."""
    stacked = multihost_utils.process_allgather(state)  # leaves [processes, ...], on the host
    each = (jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(jax.process_count()))
    return reduce(operator.add, each)


def main(arguments: list[str] | None = None) -> jaxseg.Counts:
    options = parser()
    options.description = __doc__
    options.add_argument("--processes", type=int, help="default: what the cluster says")
    options.add_argument("--process", type=int, help="number of this one, from 0")
    options.add_argument("--coordinator", help="address and port of process 0")
    args = options.parse_args(arguments)
    if args.processes != 1:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)

    # Every image once, and no padding of the data set: shares differ by one image, or as you like.
    share = range(args.images)[jax.process_index() :: jax.process_count()]
    mesh = jax.make_mesh((jax.local_device_count(),), ("data",), devices=jax.local_devices())
    check(options, args, mesh)
    state, images, seconds = evaluate(
        share, mesh, batch=args.batch, shape=(args.height, args.width), show=False
    )
    print(f"Process {jax.process_index()}: {images} images in {seconds:.2f} s", flush=True)
    counts = jaxseg.total(sum_of_processes(state))
    if jax.process_index() == 0:
        report(counts)
    if args.out is not None:  # of each process its own, though they are equal
        np.save(args.out.with_stem(f"{args.out.stem}-{jax.process_index()}"), np.stack(counts))
    return counts


if __name__ == "__main__":
    main()
