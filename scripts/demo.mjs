// `npm run demo`: the demo model goes on with a paragraph of the book that it knows.

import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const cli = join(root, 'dist', 'lib', 'cli', 'main.js');
const model = join(root, 'models', 'demo', 'checkpoint');
const prompt = 'It was a cold morning of the early spring, and';

console.log('A Qwen2 of 2.9 million parameters, which has read one book:\n');
process.stdout.write(prompt);
const paragraph = ['--stop', '\n\n', '--max-tokens', '400'];
const { status } = spawnSync(process.execPath, [cli, 'generate', model, prompt, ...paragraph], { stdio: 'inherit' });
console.log('\nAnother one: npx qwen2 generate models/demo/checkpoint "To Sherlock Holmes she is always" -n 100');
process.exitCode = status ?? 1;
