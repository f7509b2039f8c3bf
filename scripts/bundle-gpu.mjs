// One folder that verifies and benchmarks the CUDA device on a machine without Node.js or a network:
//
//   npm run bundle:gpu [-- --architectures "90a-real" --to build/gpu-bundle]
//   … copy the folder there, and run: ./run.sh [where results go]
//
// It holds Node's own binary, the compiled TypeScript with tests and benchmarks, the addon with the CUDA library built for
// the architectures, fixtures, and the kernels' sources.

import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: {
    architectures: { type: 'string', default: '90a-real' },
    to: { type: 'string', default: join(root, 'build', 'gpu-bundle') },
  },
});
const bundle = values.to;
const mostBytes = 64 << 20;

const built = join(root, 'build', 'gpu');
const env = {
  ...process.env,
  QWEN2_BUILD_FOLDER: built,
  QWEN2_CUDA: 'ON',
  QWEN2_CUDA_ARCHITECTURES: values.architectures,
};
execFileSync(process.execPath, [join(root, 'scripts', 'gyp-cmake.mjs'), '--selftest'], {
  cwd: root,
  env,
  stdio: 'inherit',
});
execFileSync('npx', ['tsc', '-p', 'tsconfig.json'], { cwd: root, stdio: 'inherit' });

rmSync(bundle, { recursive: true, force: true });
mkdirSync(join(bundle, 'build', 'Release'), { recursive: true });
for (const file of ['qwen2.node', 'libqwen2-cuda.so', 'qwen2-cuda-selftest']) {
  cpSync(join(built, 'Release', file), join(bundle, 'build', 'Release', file));
  execFileSync('strip', ['--strip-unneeded', join(bundle, 'build', 'Release', file)]);
}
for (const path of ['package.json', 'dist', 'csrc', 'test/fixtures', 'models/demo']) copy(path);
for (const name of closure(['mocha', ...Object.keys(readPackage(root).dependencies)])) copy(join('node_modules', name));
cpSync(join(root, 'scripts', 'gpu', 'run.sh'), join(bundle, 'run.sh'));
cpSync(join(root, 'scripts', 'gpu', 'run.mjs'), join(bundle, 'run.mjs'));
compressNode(join(bundle, 'node.xz'));

const bytes = sizeOf(bundle);
console.log(
  `${relative(process.cwd(), bundle) || bundle}: ${(bytes / 2 ** 20).toFixed(1)} MiB, for ${values.architectures}`,
);
if (bytes > mostBytes) {
  console.error(`It must stay under ${mostBytes >> 20} MiB`);
  process.exit(1);
}

function copy(path) {
  cpSync(join(root, path), join(bundle, path), { recursive: true, dereference: true });
}

function readPackage(folder) {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
}

/** The packages and all that they need, as they lie in node_modules. */
function closure(names) {
  const found = new Set();
  const visit = (name) => {
    if (found.has(name) || !existsSync(join(root, 'node_modules', name))) return;
    found.add(name);
    for (const dependency of Object.keys(readPackage(join(root, 'node_modules', name)).dependencies ?? {}))
      visit(dependency);
  };
  for (const name of names) visit(name);
  return found;
}

/** Stripped first: the symbols of Node's binary are a tenth of it. */
function compressNode(to) {
  const stripped = join(bundle, 'node');
  cpSync(process.execPath, stripped, { dereference: true });
  execFileSync('strip', [stripped]);
  execFileSync('sh', ['-c', `xz -T0 -6 -c "${stripped}" > "${to}"`]);
  rmSync(stripped);
}

function sizeOf(path) {
  const stats = statSync(path);
  if (!stats.isDirectory()) return stats.size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}
