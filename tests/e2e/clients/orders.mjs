// Has one of JavaScript's popular clients carry out orders: a line of JSON each, answered by lines of JSON.
//
// A client is a module beside this one with two async generators: `stream` gives the pieces of an answer as they come and
// then its usage, and `loop` gives what a tool loop ends with.

import { Console } from 'node:console';
import { createInterface } from 'node:readline';

globalThis.console = new Console(process.stderr); // some clients print

const client = await import(`./${process.argv[2]}.mjs`);

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  try {
    for await (const said of client[order.do](order)) say({ said });
    say({ done: true });
  } catch (error) {
    say({ failed: `${error.name}: ${error.message}`.slice(0, 2000) });
  }
}
