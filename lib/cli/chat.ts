import { createInterface, type Interface } from 'node:readline';
import { Command } from 'commander';
import { type ChatMessage, type Model, Qwen2Error } from '../index.js';
import {
  addLoadOptions,
  addSamplingOptions,
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
Ctrl-C stops an answer; what was said stays in the conversation.`;

export function chatCommand(): Command {
  const command = new Command('chat')
    .description('Talks with a model, turn by turn. In a pipe: a line of stdin is a message')
    .argument('<folder>', 'a Hugging Face checkpoint with a chat template')
    .option('--system <text>', 'what the model is told before the conversation');
  return addSamplingOptions(addLoadOptions(command)).action(chat);
}

async function chat(folder: string, options: ChatArguments): Promise<void> {
  const model = await loadWithProgress(folder, loadOptions(options));
  try {
    if (!model.tokenizer.hasChatTemplate)
      throw new Qwen2Error('unsupported', `${folder} has no chat template; 'qwen2 generate' continues texts with it`);
    await new Conversation(model, options).run();
  } finally {
    await model.dispose();
  }
}

/** A conversation on a terminal, or one that a pipe holds. */
class Conversation {
  readonly #model: Model;
  readonly #options: ChatArguments;
  readonly #isTerminal = process.stdin.isTTY === true;
  readonly #input: Interface;
  /** The answer that is being written. */
  #answer: AbortController | undefined;
  #messages: ChatMessage[] = [];

  constructor(model: Model, options: ChatArguments) {
    this.#model = model;
    this.#options = options;
    this.#input = createInterface({
      input: process.stdin,
      ...(this.#isTerminal && { output: process.stderr, historySize: 1000 }),
      prompt: this.#isTerminal ? '> ' : '',
    });
  }

  async run(): Promise<void> {
    this.#begin();
    this.#input.on('SIGINT', () => this.#interrupt());
    if (this.#isTerminal) note(dim('/help lists the commands; Ctrl-D leaves.'));
    this.#input.prompt();
    let said = '';
    for await (const line of this.#input) {
      if (line.endsWith('\\')) {
        said += `${line.slice(0, -1)}\n`;
        continue;
      }
      const message = said + line;
      said = '';
      if (message.trim() === '/exit') break;
      if (message.trim() !== '') await this.#take(message);
      this.#input.prompt();
    }
    this.#input.close();
  }

  #begin(): void {
    const { system } = this.#options;
    this.#messages = system === undefined ? [] : [{ role: 'system', content: system }];
  }

  #interrupt(): void {
    if (this.#answer) this.#answer.abort();
    else {
      note(dim('\n/exit or Ctrl-D leaves'));
      this.#input.prompt();
    }
  }

  async #take(message: string): Promise<void> {
    const command = message.trim();
    if (command === '/clear') {
      this.#begin();
      note(dim('A new conversation.'));
    } else if (command === '/help') note(help);
    else if (/^\/\w+$/.test(command)) note(`There is no command ${command}; /help lists them`);
    else await this.#reply(message);
  }

  async #reply(message: string): Promise<void> {
    this.#messages.push({ role: 'user', content: message });
    this.#answer = new AbortController();
    try {
      const content = await this.#generate(this.#answer.signal);
      this.#messages.push({ role: 'assistant', content });
    } catch (error) {
      // The session goes on without the message that could not be answered.
      this.#messages.pop();
      if (!(error instanceof Qwen2Error)) throw error;
      note(`${error.message} [${error.code}]`);
      if (!this.#isTerminal) process.exitCode = 1;
    } finally {
      this.#answer = undefined;
    }
  }

  async #generate(signal: AbortSignal): Promise<string> {
    for (;;) {
      const generation = this.#model.chat(this.#messages, { ...samplingOptions(this.#options), signal });
      try {
        for await (const { text } of generation) process.stdout.write(text);
        const { text, finishReason } = await generation.result();
        process.stdout.write('\n');
        if (finishReason === 'abort') note(dim('(stopped)'));
        if (finishReason === 'length') note(dim('(cut: the token limit is reached)'));
        return text;
      } catch (error) {
        if (!(error instanceof Qwen2Error) || error.code !== 'context_overflow' || !this.#forgetOldestTurn())
          throw error;
      }
    }
  }

  /** A long conversation loses its beginning, not its end. False if only the last message is left. */
  #forgetOldestTurn(): boolean {
    const first = this.#messages[0]?.role === 'system' ? 1 : 0;
    if (this.#messages.length - first < 3) return false;
    this.#messages.splice(first, 2);
    note(dim('(the conversation is longer than the context: its oldest turn is forgotten)'));
    return true;
  }
}
