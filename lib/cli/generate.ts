import { text as readAll } from 'node:stream/consumers';
import { Command } from 'commander';
import { type Generation, type GenerationResult, type Model, type Prompt, Qwen2Error } from '../index.js';
import {
  addLoadOptions,
  addSamplingOptions,
  type LoadArguments,
  loadOptions,
  type SamplingArguments,
  samplingOptions,
  tokenIds,
} from './options.js';
import { dim, interruptedExitCode, loadWithProgress, note, onInterrupt } from './terminal.js';

interface GenerateArguments extends LoadArguments, SamplingArguments {
  tokens?: number[];
  special?: boolean;
  json?: boolean;
}

export function generateCommand(): Command {
  const command = new Command('generate')
    .description('Continues a text, which is streamed to stdout as it is made')
    .argument('<folder>', 'a Hugging Face checkpoint')
    .argument('[prompt]', 'the text to continue; without it, or with "-", stdin is read')
    .option('--tokens <ids>', 'token ids instead of a text, separated by commas; prints ids', tokenIds)
    .option('--special', 'control tokens in the prompt, such as <|im_start|>, count as such')
    .option('--json', 'print one JSON object with the result, at the end');
  return addSamplingOptions(addLoadOptions(command)).action(generate);
}

async function generate(folder: string, promptText: string | undefined, options: GenerateArguments): Promise<void> {
  if (options.tokens && promptText !== undefined)
    throw new Qwen2Error('invalid_argument', 'Give a prompt or --tokens, not both');
  const sampling = samplingOptions(options);
  const text = options.tokens ? undefined : await readPrompt(promptText);
  const model = await loadWithProgress(folder, loadOptions(options));
  const interrupt = onInterrupt();
  try {
    const started = performance.now();
    const prompt: Prompt = options.tokens ? { tokens: options.tokens } : await toPrompt(model, text!, options);
    const generation = model.generate(prompt, { ...sampling, signal: interrupt.signal });
    const printsIds = options.tokens !== undefined;
    const result = options.json ? await generation.result() : await print(generation, printsIds);
    const seconds = (performance.now() - started) / 1000;
    if (options.json) process.stdout.write(`${JSON.stringify({ ...result, seconds })}\n`);
    else if (process.stderr.isTTY) note(dim(summary(result, seconds)));
    if (interrupt.signal.aborted) process.exitCode = interruptedExitCode;
  } finally {
    interrupt.dispose();
    await model.dispose();
  }
}

async function readPrompt(prompt: string | undefined): Promise<string> {
  if (prompt !== undefined && prompt !== '-') return prompt;
  if (process.stdin.isTTY) note(dim('Type the text to continue, then Ctrl-D.'));
  return readAll(process.stdin);
}

async function toPrompt(model: Model, text: string, { special }: GenerateArguments): Promise<Prompt> {
  return special ? { tokens: await model.tokenizer.encode(text, { parseSpecial: true }) } : text;
}

async function print(generation: Generation, asIds: boolean): Promise<GenerationResult> {
  let separator = '';
  for await (const { text, tokens } of generation) {
    if (!asIds) process.stdout.write(text);
    else if (tokens.length > 0) process.stdout.write(separator + tokens.join(','));
    if (tokens.length > 0) separator = ',';
  }
  process.stdout.write('\n');
  return generation.result();
}

function summary({ usage, finishReason }: GenerationResult, seconds: number): string {
  const rate = (usage.completionTokens / seconds).toFixed(1);
  return `${usage.promptTokens} + ${usage.completionTokens} tokens in ${seconds.toFixed(2)} s, ${rate} a second; ended by ${finishReason}`;
}
