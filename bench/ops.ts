/**
 * Single operations at the shapes of real models, as fractions of the device's own measured limits.
 *
 *   node dist/bench/ops.js [--device cpu] [--only linear] [--output results.json]
 *
 * Many calls are captured into one graph, over as many copies of the operands as the caches can't hold, so that the time
 * of one is that of the kernel and not of the call. Operands are random. The last line is one JSON object.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import type { DeviceLimits } from '../lib/native/addon.js';
import { type Device, openDevice } from '../lib/native/device.js';
import { Qwen2Error } from '../lib/native/errors.js';
import type { Stream } from '../lib/native/stream.js';
import { type OpCase, opCases } from './opCases.js';
import { Operands } from './operands.js';

interface Result {
  name: string;
  microseconds: number;
  bytesPerSecond: number;
  operationsPerSecond: number;
  /** Of the measured read bandwidth, or of the measured rate of products: whichever bounds the case. */
  fraction: number;
  bound: 'bandwidth' | 'arithmetic';
}

/** Rounds of a case; the median counts. */
const rounds = 7;
/** What a round should take at least, so that waiting for it does not count. */
const roundSeconds = 0.02;
/** Device memory that operands of a case are spread over: more than any cache. */
const spreadBytes = { cpu: 256e6, gpu: 512e6 };

const { values: options } = parseArgs({
  options: {
    device: { type: 'string', default: 'auto' },
    only: { type: 'string', default: '' },
    output: { type: 'string' },
  },
});

const device = await openDevice(options.device);
const stream = device.createStream();
try {
  await main(device, stream);
} finally {
  stream.dispose();
  device.dispose();
}

async function main(device: Device, stream: Stream): Promise<void> {
  const { description, freeBytes } = device.describe();
  const limits = await stream.measure();
  const report = { device: device.name, description, limits, results: [] as Result[], failures: [] as object[] };
  console.log(
    `${description}: reads ${(limits.readBytesPerSecond / 1e9).toFixed(1)} GB/s, multiplies ${rates(limits)}`,
  );
  for (const opCase of opCases(device.name === 'cpu' ? 'small' : 'large')) {
    if (!opCase.name.includes(options.only) || opCase.memoryBytes > 0.8 * freeBytes) continue;
    try {
      const result = await measure(device, stream, opCase, limits);
      report.results.push(result);
      console.log(line(result));
    } catch (error) {
      if (!(error instanceof Qwen2Error)) throw error;
      report.failures.push({ name: opCase.name, code: error.code, message: error.message });
      console.log(`${opCase.name.padEnd(44)} ${error.message} [${error.code}]`);
    }
    // What was measured stays, if the rest is cut off.
    if (options.output !== undefined) writeFileSync(options.output, JSON.stringify(report, undefined, 1));
  }
  console.log(JSON.stringify(report));
}

async function measure(device: Device, stream: Stream, opCase: OpCase, limits: DeviceLimits): Promise<Result> {
  const spread = device.name === 'cpu' ? spreadBytes.cpu : spreadBytes.gpu;
  const copies = Math.max(1, Math.min(64, Math.ceil(spread / opCase.memoryBytes)));
  const operands = new Operands(device, stream);
  try {
    const calls = Array.from({ length: copies }, () => opCase.prepare(operands));
    await stream.synchronized();
    const seconds = await secondsOfCall(stream, calls);
    const bytesPerSecond = opCase.bytes / seconds;
    const operationsPerSecond = opCase.operations / seconds;
    const ofBandwidth = bytesPerSecond / limits.readBytesPerSecond;
    const ofBytes = (opCase.weights ?? 'bf16') !== 'bf16' && limits.int8OperationsPerSecond > 0;
    const ofArithmetic = operationsPerSecond / limits[ofBytes ? 'int8OperationsPerSecond' : 'bf16OperationsPerSecond'];
    const bound = ofBandwidth >= ofArithmetic ? 'bandwidth' : 'arithmetic';
    const fraction = Math.max(ofBandwidth, ofArithmetic);
    return { name: opCase.name, microseconds: 1e6 * seconds, bytesPerSecond, operationsPerSecond, fraction, bound };
  } finally {
    await operands.dispose();
  }
}

/** The median time of one call, of graphs of as many as a round takes. */
async function secondsOfCall(stream: Stream, calls: readonly (() => void)[]): Promise<number> {
  const graphOf = (repetitions: number) =>
    stream.capture(() => {
      for (let i = 0; i < repetitions; i++) for (const call of calls) call();
    });
  const secondsOf = async (repetitions: number, times: number) => {
    const graph = graphOf(repetitions);
    const seconds: number[] = [];
    try {
      for (let round = 0; round < times + 1; round++) {
        const started = performance.now();
        stream.launch(graph);
        await stream.synchronized();
        // The first launch also instantiates the graph.
        if (round > 0) seconds.push((performance.now() - started) / 1000);
      }
    } finally {
      graph.dispose();
    }
    return seconds.toSorted((a, b) => a - b)[Math.floor(times / 2)]! / (repetitions * calls.length);
  };
  const estimate = await secondsOf(1, 1);
  const repetitions = Math.max(1, Math.min(2000, Math.ceil(roundSeconds / (estimate * calls.length))));
  return secondsOf(repetitions, rounds);
}

function rates({ bf16OperationsPerSecond: bf16, int8OperationsPerSecond: int8 }: DeviceLimits): string {
  const tera = (rate: number) => `${(rate / 1e12).toFixed(2)} TFLOP/s`;
  return int8 > 0 ? `${tera(bf16)}, of bytes ${tera(int8)}` : tera(bf16);
}

function line({ name, microseconds, bytesPerSecond, operationsPerSecond, fraction, bound }: Result): string {
  const rate =
    bound === 'bandwidth'
      ? `${(bytesPerSecond / 1e9).toFixed(1)} GB/s`
      : `${(operationsPerSecond / 1e12).toFixed(2)} TFLOP/s`;
  return `${name.padEnd(44)} ${microseconds.toFixed(1).padStart(10)} µs ${rate.padStart(16)} ${(100 * fraction).toFixed(0).padStart(4)}% of ${bound}`;
}
