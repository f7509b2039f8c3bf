/**
 * Programs that end while native work goes on; teardown.test.ts runs each in a process of its own, as
 * `node teardownPrograms.js <name>`. What a program prints is what it got to.
 */

import { open } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { nativeAddon } from '../../lib/native/addon.js';
import { Device } from '../../lib/native/device.js';
import type { Stream } from '../../lib/native/stream.js';
import { OpBench } from '../support/opBench.js';

const self = fileURLToPath(import.meta.url);
const print = (text: string) => process.stdout.write(`${text}\n`);
const ignore = () => {};

/** About 10 ms of work, `times` over. */
function occupy(device: Device, stream: Stream, times: number): void {
  const out = device.tensor('f32', [1 << 22]);
  for (let i = 0; i < times; i++) stream.run('fill_random', { out, seed: i, mean: 0, std: 1 });
}

/** Everything the addon can do, without end: operations, graphs, events, transfers, reads and releases. */
async function flood(name: string): Promise<never> {
  const bench = new OpBench({ title: name, name, threads: 2 });
  const second = bench.device.createStream();
  const file = await open(self);
  const x = bench.from('bf16', [2, 2], [1, 2, 3, 4]);
  const out = bench.empty('bf16', [2, 2]);
  const rows = bench.from('i32', [2], [1, 0]);
  const graph = bench.stream.capture(() => bench.run('gather_rows', { x, rows, out }));
  for (let i = 0; ; i++) {
    const storage = bench.device.allocate(1 << 12);
    nativeAddon()
      .readFile(bench.stream.id, file.fd, 0, 1 << 10, storage.id, 0)
      .catch(ignore);
    storage.dispose().catch(ignore);
    bench.stream.launch(graph);
    second.wait(bench.stream.record());
    bench.stream.upload(rows, Int32Array.of(1, i % 50 === 0 ? 9 : 0));
    second.download(out, new Uint16Array(4)).catch(ignore);
    for (const stream of [bench.stream, second]) stream.synchronized().catch(ignore);
    if (i === 20) parentPort?.postMessage('flooding');
    if (i % 10 === 0) await sleep(0);
  }
}

const programs: Record<string, () => Promise<unknown>> = {
  async workersTerminated() {
    const workers = Array.from({ length: 16 }, (_, i) => {
      return new Worker(self, { argv: ['floodWorker'], workerData: i % 2 === 0 ? 'cpu' : 'reference' });
    });
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
    const codes = await Promise.all(workers.map((worker) => worker.terminate()));
    print(`${codes.filter((code) => code === 1).length} terminated`);
  },

  async workersEnd() {
    const workers = Array.from({ length: 4 }, () => new Worker(self, { argv: ['endingWorker'] }));
    const codes = await Promise.all(
      workers.map((worker) => new Promise((resolve) => worker.once('exit', (code) => resolve(code)))),
    );
    print(`exit codes ${codes}`);
  },

  async mainThreadLivesOn() {
    const bench = new OpBench({ title: 'cpu', name: 'cpu', threads: 2 });
    const worker = new Worker(self, { argv: ['floodWorker'], workerData: 'cpu' });
    await new Promise((resolve) => worker.once('message', resolve));
    await worker.terminate();
    const found = await bench.read(bench.from('i32', [2], [5, 6]));
    await bench.dispose();
    print(`read ${[...found]}`);
  },

  /** Run in a worker: ends by itself, with nothing disposed. */
  async endingWorker() {
    const bench = new OpBench({ title: 'cpu', name: 'cpu', threads: 2 });
    await bench.read(bench.from('i32', [2], [5, 6]));
    occupy(bench.device, bench.stream, 5);
  },

  floodWorker: () => flood(workerData as string),

  async exitDuringWork() {
    setTimeout(() => process.exit(7), 200);
    await flood('cpu');
  },

  async throwDuringWork() {
    setTimeout(() => {
      throw new Error('nobody catches this');
    }, 200);
    await flood('cpu');
  },

  async idle() {
    const bench = new OpBench({ title: 'cpu', name: 'cpu', threads: 2 });
    await bench.read(bench.from('i32', [2], [5, 6]));
    bench.stream.capture(ignore);
    bench.stream.record();
    print(`idle at ${Date.now()}`);
  },

  async workWithoutPromise() {
    const device = Device.open('cpu');
    const stream = device.createStream();
    occupy(device, stream, 500);
    print(`idle at ${Date.now()}`);
  },

  async pendingPromise() {
    const device = Device.open('reference');
    const stream = device.createStream();
    occupy(device, stream, 10);
    stream.synchronized().then(() => print('settled'));
  },

  async disposeDuringWork() {
    const device = Device.open('cpu', { threads: 2 });
    const stream = device.createStream();
    occupy(device, stream, 100);
    const pending = stream.synchronized();
    stream.dispose();
    device.dispose();
    await pending.catch((error) => print(error.code));
  },

  async refusedPromises() {
    const { stream, device } = new OpBench({ title: 'cpu', name: 'cpu', threads: 2 });
    const tensor = device.tensor('u8', [1]);
    const refused: Promise<unknown>[] = [];
    stream.capture(() => {
      refused.push(stream.synchronized(), stream.download(tensor, new Uint8Array(1)), stream.measure());
    });
    const results = await Promise.allSettled(refused);
    print(results.map(({ status }) => status).join());
  },

  async addonErrors() {
    try {
      Device.open('cpu');
    } catch (error) {
      const { name, code, message } = error as { name: string; code: string; message: string };
      print(JSON.stringify({ name, code, message }));
    }
  },

  async tooManyThreads() {
    try {
      Device.open('cpu', { threads: 1000 });
      print('opened');
    } catch (error) {
      const { code, message } = error as { code: string; message: string };
      print(`${code}: ${message}`);
    }
    const few = Device.open('cpu', { threads: 1 });
    few.dispose();
  },
};

const name = process.argv[2];
if (isMainThread || name === 'floodWorker' || name === 'endingWorker') await programs[name ?? '']?.();
