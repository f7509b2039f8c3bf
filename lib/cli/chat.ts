import { createInterface, type Interface } from 'node:readline';
import { Command } from 'commander';
import { type ChatMessage, type Model, Qwen2Error } from '../index.js';
import {
  addLoadOptions,
  addSamplingOptions,
  explain,
  type LoadArguments,
  loadOptions,
  type SamplingArguments,
  samplingOptions,
} from './options.js';
import { dim, loadWithProgress, note } from './terminal.js';

interface ChatArguments extends LoadArguments, SamplingArguments {
  system?: string;
}

const help = `A line is a message; end it with \\ to go on in the next line.
  /clear   begin a new conversation
  /help    this
  /exit    leave (so does Ctrl-D)
Ctrl-C stops an answer; what was said stays in the conversation. Without one, it drops what you are typing.`;

export function chatCommand(): Command {
  const command = new Command('chat')
    .description('Talks with a model, turn by turn. In a pipe: a line of stdin is a message')
    .argument('<folder>', 'a Hugging Face checkpoint with a chat template')
    .option('--system <text>', 'what the model is told before the conversation');
  return addSamplingOptions(addLoadOptions(command)).action(chat);
}

async function chat(folder: string, options: ChatArguments, command: Command): Promise<void> {
  const sampling = samplingOptions(options);
  const model = await loadWithProgress(folder, loadOptions(options));
  try {
    if (!model.tokenizer.hasChatTemplate)
      throw new Qwen2Error('unsupported', `${folder} has no chat template; 'qwen2 generate' continues texts with it`);
    await new Conversation(model, sampling, options.system, (error) => explain(error, command)).run();
  } finally {
    await model.dispose();
  }
}

/** A conversation on a terminal, or one that a pipe holds. */
class Conversation {
  readonly #model: Model;
  readonly #sampling: SamplingArguments;
  readonly #explain: (error: Qwen2Error) => string;
  readonly #system: readonly ChatMessage[];
  readonly #isTerminal = process.stdin.isTTY === true && process.stderr.isTTY === true;
  readonly #input: Interface;
  #messages: ChatMessage[] = [];
  /** Lines of a message that goes on in the next line. */
  #unfinished = '';
  /** The answer that is being written. */
  #answer: AbortController | undefined;
  #closed = false;

  constructor(
    model: Model,
    sampling: SamplingArguments,
    system: string | undefined,
    explain: (error: Qwen2Error) => string,
  ) {
    this.#model = model;
    this.#sampling = sampling;
    this.#explain = explain;
    this.#system = system === undefined ? [] : [{ role: 'system', content: system }];
    this.#messages = [...this.#system];
    this.#input = createInterface({
      input: process.stdin,
      ...(this.#isTerminal && { output: process.stderr, historySize: 1000 }),
    });
    this.#input.on('SIGINT', () => this.#interrupt());
    this.#input.on('close', () => {
      this.#closed = true;
    });
  }

  async run(): Promise<void> {
    if (this.#isTerminal) note(dim('/help lists the commands; Ctrl-D leaves.'));
    this.#prompt();
    for await (const line of this.#input) {
      if (line.endsWith('\\')) {
        this.#unfinished += `${line.slice(0, -1)}\n`;
        this.#prompt();
        continue;
      }
      const message = this.#unfinished + line;
      this.#unfinished = '';
      if (message.trim() === '/exit') break;
      await this.#take(message);
      this.#prompt();
    }
    // A pipe may end behind a \; a terminal's shell wants a line of its own.
    if (!this.#isTerminal) await this.#take(this.#unfinished);
    else if (this.#closed) note('');
    this.#input.close();
  }

  #prompt(): void {
    if (!this.#isTerminal || this.#closed) return;
    this.#input.setPrompt(this.#unfinished === '' ? '> ' : '… ');
    this.#input.prompt();
  }

  #interrupt(): void {
    if (this.#answer) this.#answer.abort();
    else {
      this.#unfinished = '';
      note(dim('\n/exit or Ctrl-D leaves'));
      this.#input.write(null, { ctrl: true, name: 'e' });
      this.#input.write(null, { ctrl: true, name: 'u' });
      this.#prompt();
    }
  }

  async #take(message: string): Promise<void> {
    const command = message.trim();
    if (command === '') return;
    if (command === '/clear') {
      this.#messages = [...this.#system];
      note(dim('A new conversation.'));
    } else if (command === '/help') note(help);
    else if (/^\/\w+$/.test(command)) this.#refuse(`There is no command ${command}; /help lists them`);
    else await this.#reply(message);
  }

  /** The session goes on without a message that can't be answered. */
  #refuse(reason: string): void {
    note(reason);
    if (!this.#isTerminal) process.exitCode = 1;
  }

  async #reply(message: string): Promise<void> {
    this.#answer = new AbortController();
    try {
      const { messages, tokens } = await this.#fit([...this.#messages, { role: 'user', content: message }]);
      const content = await this.#generate(tokens, this.#answer.signal);
      this.#messages = [...messages, { role: 'assistant', content }];
    } catch (error) {
      if (!(error instanceof Qwen2Error)) throw error;
      this.#refuse(this.#explain(error));
    } finally {
      this.#answer = undefined;
    }
  }

  /** A long conversation loses its beginning, not its end, so that a quarter of the context is there for the answer. */
  async #fit(messages: ChatMessage[]): Promise<{ messages: ChatMessage[]; tokens: number[] }> {
    const { contextLength, tokenizer } = this.#model;
    const room = Math.min(this.#sampling.maxTokens ?? contextLength, Math.ceil(contextLength / 4));
    const oldest = this.#system.length;
    let kept = messages;
    let tokens = await tokenizer.encodeChat(kept);
    while (tokens.length + room > contextLength && kept.length - oldest > 1) {
      kept = kept.toSpliced(oldest, 2);
      tokens = await tokenizer.encodeChat(kept);
    }
    const forgotten = (messages.length - kept.length) / 2;
    if (forgotten > 0 && tokens.length < contextLength)
      note(
        dim(`(the context is full: ${forgotten === 1 ? 'the oldest turn is' : `${forgotten} turns are`} forgotten)`),
      );
    return { messages: kept, tokens };
  }

  async #generate(tokens: number[], signal: AbortSignal): Promise<string> {
    const generation = this.#model.generate({ tokens }, { ...this.#sampling, signal });
    for await (const { text } of generation) process.stdout.write(text);
    const { text, finishReason } = await generation.result();
    process.stdout.write('\n');
    if (finishReason === 'abort') note(dim('(stopped)'));
    if (finishReason === 'length') note(dim('(cut: the token limit is reached)'));
    return text;
  }
}
