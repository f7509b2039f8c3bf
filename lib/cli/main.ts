#!/usr/bin/env node
import { createRequire } from 'node:module';
import { Command, CommanderError } from 'commander';
import { Qwen2Error } from '../index.js';
import { batchCommand } from './batch.js';
import { benchCommand } from './bench.js';
import { chatCommand } from './chat.js';
import { generateCommand } from './generate.js';
import { infoCommand } from './info.js';
import { explain } from './options.js';
import { quantizeCommand } from './quantize.js';
import { interruptedExitCode } from './terminal.js';
import { workerCommand } from './worker.js';

/** What a shell sees. */
const exitCodes = { failed: 1, misused: 2 };

const { version } = createRequire(import.meta.url)('../../../package.json') as { version: string };

const program = new Command('qwen2')
  .description('Runs Qwen2 on this machine: a Hugging Face folder in, text out.')
  .version(version)
  .showHelpAfterError('(--help lists what there is)')
  .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 misused, 130 interrupted.')
  .exitOverride();
const commands = [
  generateCommand(),
  chatCommand(),
  batchCommand(),
  workerCommand(),
  quantizeCommand(),
  infoCommand(),
  benchCommand(),
];
for (const command of commands)
  program.addCommand(command.exitOverride().showHelpAfterError('(--help lists what there is)'));

// A reader that has enough, as in `qwen2 … | head -1`, ends the program and is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) =>
  process.exit(error.code === 'EPIPE' ? 0 : exitCodes.failed),
);

program.parseAsync().catch((error: unknown) => {
  process.exitCode = report(error);
});

function report(error: unknown): number {
  // Commander has said what is wrong by itself.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitCodes.misused;
  if (!(error instanceof Qwen2Error)) {
    console.error(error);
    return exitCodes.failed;
  }
  if (error.code === 'aborted') {
    // Nothing but Ctrl-C aborts.
    console.error('qwen2: interrupted');
    return interruptedExitCode;
  }
  const command = program.commands.find((candidate) => candidate.name() === program.args[0]);
  console.error(`qwen2: ${explain(error, command)}`);
  return error.code === 'invalid_argument' ? exitCodes.misused : exitCodes.failed;
}
