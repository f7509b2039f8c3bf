// How many instructions the inner loops of kernels take that live from few of them, as nvcc writes them in PTX: ptxas joins
// some and drops moves, so that this is a ceiling of what a multiprocessor issues.

import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Instructions for 16 rows × 16 columns of a weight. At 4.3 TB/s an H200's scheduler has 28.7 clocks for those of int4 and
 * twice as many for those of int8; 128 columns at a time are loaded, unpacked, multiplied and scaled.
 */
const loops = [
  { source: 'csrc/ops/swiglu_int4/swiglu_int4.cu', kernel: /Skinny.*Int4CodecELi1ELi1E/, tokens: 8, ceiling: 17 },
  { source: 'csrc/ops/swiglu_int4/swiglu_int4.cu', kernel: /Skinny.*Int4CodecELi1ELi2E/, tokens: 16, ceiling: 20 },
  { source: 'csrc/ops/swiglu_int4/swiglu_int4.cu', kernel: /Skinny.*Int4CodecELi1ELi4E/, tokens: 32, ceiling: 27 },
  { source: 'csrc/ops/linear_int8/linear_int8.cu', kernel: /Skinny.*Int8CodecELi1ELi1E/, tokens: 8, ceiling: 25 },
];

/** Faults, a sentence each, and how many loops there are. Compiles to files in `folder`. */
export function checkHotLoops(root, flags, folder) {
  const faults = [];
  for (const source of new Set(loops.map((loop) => loop.source))) {
    const ptx = join(folder, 'loops.ptx');
    const { status, stderr } = spawnSync('nvcc', [...flags, '-arch=sm_90a', '-ptx', source, '-o', ptx], { cwd: root });
    if (status !== 0) return { faults: [`${source}: nvcc fails\n${stderr}`], loops: 0 };
    const kernels = readFileSync(ptx, 'utf8').split('.visible .entry ').slice(1);
    rmSync(ptx);
    for (const { kernel, tokens, ceiling } of loops.filter((loop) => loop.source === source)) {
      const text = kernels.find((text) => kernel.test(text.slice(0, text.indexOf('('))));
      const count = text === undefined ? Number.NaN : instructionsOfTile(text, tokens / 8);
      if (!(count <= ceiling))
        faults.push(`${source}: ${count.toFixed(1)} instructions a tile in ${kernel}, not ${ceiling}`);
    }
  }
  return { faults, loops: loops.length };
}

/** Of the loop with the most mma, the innermost of such, a tile's share: `products` mma each. */
function instructionsOfTile(text, products) {
  const lines = text.split('\n').map((line) => line.trim());
  const labels = new Map(
    lines.flatMap((line, i) => (/^\$\w+:/.test(line) ? [[line.slice(0, line.indexOf(':')), i]] : [])),
  );
  let best = { mma: 0, instructions: Number.NaN };
  for (const [end, line] of lines.entries()) {
    const first = labels.get(/\bbra(?:\.uni)?\s+(\$\w+);/.exec(line)?.[1]);
    if (first === undefined || first >= end) continue;
    const loop = lines.slice(first, end + 1);
    const mma = loop.filter((line) => line.startsWith('mma.')).length;
    const instructions = loop.filter((line) => /^(@!?%?\w+\s+)?[a-z][\w.:]*\s.*;$/.test(line)).length;
    if (mma > best.mma || (mma === best.mma && instructions < best.instructions)) best = { mma, instructions };
  }
  return (best.instructions / best.mma) * products;
}
