import assert from 'node:assert/strict';
import type { Device } from '../../lib/native/device.js';
import type { Event, Graph, Stream } from '../../lib/native/stream.js';
import type { Tensor } from '../../lib/native/tensor.js';
import { type DeviceCase, type OpBench, withBench } from '../support/opBench.js';
import { failure, hostDevices, occupy, smallGather } from '../support/streamWork.js';

/** One of each object, on one device; `bench` keeps a device and a stream of its own beside them. */
interface Objects {
  device: Device;
  storage: Tensor['storage'];
  stream: Stream;
  event: Event;
  graph: Graph;
  gather: { x: Tensor; rows: Tensor; out: Tensor };
}

type Kind = 'device' | 'storage' | 'stream' | 'event' | 'graph';

interface Method {
  kind: Kind;
  name: string;
  call: (objects: Objects) => unknown;
  /** What a call does after the object was disposed; without it, it works on. */
  disposed?: RegExp;
  /** Takes long, or is not there on every device: tried on disposed objects only. */
  onlyDisposed?: boolean;
}

const device = /^this device was disposed$/;
const stream = /^this stream was disposed$/;
const storage = /^this storage was disposed$/;

const methods: readonly Method[] = [
  { kind: 'device', name: 'describe', call: ({ device }) => device.describe(), disposed: device },
  { kind: 'device', name: 'allocate', call: ({ device }) => device.allocate(8).dispose(), disposed: device },
  {
    kind: 'device',
    name: 'tensor',
    call: ({ device }) => device.tensor('f32', [2]).storage.dispose(),
    disposed: device,
  },
  {
    kind: 'device',
    name: 'weight',
    call: ({ device }) => device.weight('linearWeight', 2, 2).storage.dispose(),
    disposed: device,
  },
  { kind: 'device', name: 'packedBytes', call: ({ device }) => device.packedBytes(2, 2), disposed: device },
  {
    kind: 'device',
    name: 'kvBlockBytes',
    call: ({ device }) => device.kvBlockBytes('bf16', 1, 2, 2),
    disposed: device,
  },
  { kind: 'device', name: 'createStream', call: ({ device }) => device.createStream().dispose(), disposed: device },
  { kind: 'device', name: 'dispose', call: ({ device }) => device.dispose() },
  { kind: 'device', name: 'run of its stream', call: ({ stream, gather }) => stream.run('gather_rows', gather) },
  { kind: 'device', name: 'synchronized of its stream', call: ({ stream }) => stream.synchronized() },
  { kind: 'device', name: 'dispose of its storage', call: ({ storage }) => storage.dispose() },

  { kind: 'storage', name: 'dispose', call: ({ storage }) => storage.dispose() },
  {
    kind: 'storage',
    name: 'run with it',
    call: ({ stream, gather }) => stream.run('gather_rows', gather),
    disposed: /^gather_rows: the storage of x was disposed$/,
  },
  {
    kind: 'storage',
    name: 'upload to it',
    call: ({ stream, gather }) => stream.upload(gather.x, new Uint16Array(12)),
    disposed: storage,
  },
  {
    kind: 'storage',
    name: 'download from it',
    call: ({ stream, gather }) => stream.download(gather.x, new Uint16Array(12)),
    disposed: storage,
  },
  { kind: 'storage', name: 'launch of a graph with it', call: ({ stream, graph }) => stream.launch(graph) },

  { kind: 'stream', name: 'run', call: ({ stream, gather }) => stream.run('gather_rows', gather), disposed: stream },
  {
    kind: 'stream',
    name: 'upload',
    call: ({ stream, gather }) => stream.upload(gather.x, new Uint16Array(12)),
    disposed: stream,
  },
  {
    kind: 'stream',
    name: 'download',
    call: ({ stream, gather }) => stream.download(gather.x, new Uint16Array(12)),
    disposed: stream,
  },
  { kind: 'stream', name: 'synchronized', call: ({ stream }) => stream.synchronized(), disposed: stream },
  { kind: 'stream', name: 'record', call: ({ stream }) => stream.record().dispose(), disposed: stream },
  { kind: 'stream', name: 'wait', call: ({ stream, event }) => stream.wait(event), disposed: stream },
  { kind: 'stream', name: 'capture', call: ({ stream }) => stream.capture(() => {}).dispose(), disposed: stream },
  { kind: 'stream', name: 'launch', call: ({ stream, graph }) => stream.launch(graph), disposed: stream },
  { kind: 'stream', name: 'measure', call: ({ stream }) => stream.measure(), disposed: stream, onlyDisposed: true },
  { kind: 'stream', name: 'dispose', call: ({ stream }) => stream.dispose() },
  { kind: 'stream', name: 'dispose of its event', call: ({ event }) => event.dispose() },
  { kind: 'stream', name: 'dispose of its graph', call: ({ graph }) => graph.dispose() },

  {
    kind: 'event',
    name: 'wait for it',
    call: ({ stream, event }) => stream.wait(event),
    disposed: /^this event was disposed$/,
  },
  { kind: 'event', name: 'dispose', call: ({ event }) => event.dispose() },

  {
    kind: 'graph',
    name: 'launch',
    call: ({ stream, graph }) => stream.launch(graph),
    disposed: /^this graph was disposed$/,
  },
  { kind: 'graph', name: 'dispose', call: ({ graph }) => graph.dispose() },
];

/** Runs `body` on objects of every kind; what it leaves undisposed is disposed. */
async function withObjects(deviceCase: DeviceCase, body: (objects: Objects, bench: OpBench) => Promise<void>) {
  await withBench(deviceCase, async (bench) => {
    const { stream } = bench;
    const gather = smallGather(bench);
    const graph = stream.capture(() => stream.run('gather_rows', gather));
    const event = stream.record();
    await stream.synchronized();
    await body({ device: bench.device, storage: gather.x.storage, stream, event, graph, gather }, bench);
    event.dispose();
    graph.dispose();
  });
}

/** Every promise of the native side must be one, whatever is wrong: none is thrown where a promise was declared. */
const returnsPromise = new Set(['download', 'download from it', 'synchronized', 'measure']);

for (const deviceCase of hostDevices)
  describe(`lifecycle: ${deviceCase.title}`, () => {
    for (const { kind, name, call, disposed, onlyDisposed } of methods) {
      if (!onlyDisposed) {
        it(`${kind}, open: ${name} works`, () =>
          withObjects(deviceCase, async (objects) => void (await call(objects))));

        it(`${kind}, busy: ${name} works`, () =>
          withObjects(deviceCase, async (objects, bench) => {
            occupy(bench, 1);
            await call(objects);
          }));
      }

      for (const busy of [false, true])
        it(`${kind}, disposed${busy ? ' while busy' : ''}: ${name} ${disposed ? 'fails' : 'works'}`, () =>
          withObjects(deviceCase, async (objects, bench) => {
            if (busy) occupy(bench, 1);
            await objects[kind].dispose();
            if (disposed === undefined) await call(objects);
            else if (returnsPromise.has(name))
              await assert.rejects(call(objects) as Promise<unknown>, failure('disposed', disposed));
            else assert.throws(() => call(objects), failure('disposed', disposed));
          }));
    }
  });
