// What every script needs: the order that the test writes to stdin, and a line of JSON for each thing it says.

import { text } from 'node:stream/consumers';

export const order = JSON.parse(await text(process.stdin));

export function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}
