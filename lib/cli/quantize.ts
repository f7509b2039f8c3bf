import { readFile } from 'node:fs/promises';
import { Command, Option } from 'commander';
import { type QuantizeOptions, type QuantizeProgress, Qwen2Error, quantizeCheckpoint } from '../index.js';
import { addDeviceOptions, type DeviceArguments, deviceOptions, wholeNumber } from './options.js';
import { bytesFormat, gigabytes, note, ProgressBar, runResumable } from './terminal.js';

type QuantizeArguments = DeviceArguments &
  Pick<QuantizeOptions, 'method' | 'calibrationSequences' | 'calibrationLength' | 'groupSize' | 'clipSteps'> & {
    calibration?: string;
    json?: boolean;
  };

export function quantizeCommand(): Command {
  const command = new Command('quantize')
    .description('Writes a checkpoint with 4-bit weights (AWQ); interrupted anywhere, the same command goes on')
    .argument('<folder>', 'a Hugging Face checkpoint in bf16, f16 or f32')
    .argument('<out>', 'the folder to write, new or begun by the same command')
    .addOption(new Option('--method <name>', 'default: awq with --calibration, else rtn').choices(['rtn', 'awq']))
    .option('--calibration <file>', 'a text like those that the model will see, for awq')
    .option('--calibration-sequences <n>', 'taken of the text, evenly spread (default: 32)', wholeNumber)
    .option('--calibration-length <n>', 'tokens of each (default: 512)', wholeNumber)
    .option('--group-size <n>', 'columns that share a scale: 32, 64 or 128 (default: 128)', wholeNumber)
    .option('--clip-steps <n>', 'smaller ranges tried for each group, 0 to 30 (default: 20)', wholeNumber)
    .option('--json', 'print one JSON object, at the end');
  return addDeviceOptions(command).action(quantize);
}

async function quantize(folder: string, out: string, options: QuantizeArguments): Promise<void> {
  const { method, calibrationSequences, calibrationLength, groupSize, clipSteps, json } = options;
  const calibration = options.calibration === undefined ? undefined : await readText(options.calibration);
  const given = { method, calibration, calibrationSequences, calibrationLength, groupSize, clipSteps };
  const bar = new ProgressBar(bytesFormat('quantizing'), true);
  const onProgress = ({ doneBytes, totalBytes }: QuantizeProgress) => bar.showBytes(doneBytes, totalBytes);
  const result = await runResumable(bar, 'what is written stays', (signal) =>
    quantizeCheckpoint(folder, out, { ...deviceOptions(options), ...given, signal, onProgress }),
  );
  if (result === undefined) return;
  const { written, found, bytes } = result;
  if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
  else note(`${out}: ${gigabytes(bytes)} in ${written + found} files${found > 0 ? `, ${found} there before` : ''}`);
}

/** @throws not_found */
async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new Qwen2Error('not_found', `--calibration ${path} can't be read: ${(cause as Error).message}`, { cause });
  }
}
