// npm's install step: nothing to do where a prebuilt addon loads, a build from source where none does. Downloads nothing.

import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);

function loads() {
  try {
    require('node-gyp-build')(root);
    return true;
  } catch {
    return false;
  }
}

if (!loads()) {
  console.log('qwen2-node: no prebuilt addon for this machine, building from source');
  const built = spawnSync(process.execPath, [join(root, 'scripts', 'gyp-cmake.mjs')], { stdio: 'inherit' });
  process.exit(built.status ?? 1);
}
