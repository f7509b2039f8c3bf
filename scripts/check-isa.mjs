// Checks that the objects of the SIMD levels define no weak symbol that other code could share: the linker keeps one
// copy of an inline function for the whole program, and if it were the one compiled with AVX-512, the program would stop
// at an unknown instruction on a processor without it. A weak symbol whose name holds the level's namespace is the
// level's own, and harmless.
//
//   node scripts/check-isa.mjs [build folder]

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const build = process.argv[2] ?? join(dirname(dirname(fileURLToPath(import.meta.url))), 'build');

/** The SIMD levels whose instructions not every processor has, and their namespaces as mangled names spell them. */
const levels = { avx2: '5qwen23cpu4avx2', avx512: '5qwen23cpu6avx512' };

function objectsOf(level) {
  const folder = join(build, 'CMakeFiles', `qwen2_${level}.dir`);
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true })
    .filter((name) => name.endsWith('.o'))
    .map((name) => join(folder, name));
}

/** Weak and unique symbols that an object defines: "object: symbol" each. */
function sharedSymbols(objects, namespace) {
  if (objects.length === 0) return [];
  const { status, stdout, stderr, error } = spawnSync('nm', ['-A', '--defined-only', ...objects], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (error || status !== 0) throw new Error(`nm failed: ${error?.message ?? stderr}`);
  return stdout
    .split('\n')
    .map((line) => /^(.*):[0-9a-f]+ [WVu] (.*)$/.exec(line))
    .filter((match) => match !== null && !match[2].includes(namespace))
    .map(([, object, symbol]) => `${object}: ${symbol}`);
}

function check() {
  const objects = Object.entries(levels).map(([level, namespace]) => ({ namespace, objects: objectsOf(level) }));
  if (objects.every(({ objects }) => objects.length === 0)) {
    console.log(`Skipped: there are no objects of SIMD levels in ${build}; npm run build makes them.`);
    return;
  }
  const found = objects.flatMap(({ objects, namespace }) => sharedSymbols(objects, namespace));
  for (const symbol of found) console.error(symbol);
  console.log(
    found.length === 0
      ? 'No SIMD object shares a symbol.'
      : `${found.length} symbols compiled for one SIMD level only.`,
  );
  process.exitCode = found.length === 0 ? 0 : 1;
}

check();
