// What the model may ask the page to do. Each tool runs in the page, once the user has allowed the call.

export const tools = [
  {
    name: 'save_note',
    description: 'Saves a note for the user.',
    inputSchema: { type: 'object', properties: { text: { type: 'string' } }, required: ['text'] },
    needsApproval: true,
  },
];

/** Runs a call, and gives its output. */
export function run(name, input, kept) {
  if (name !== 'save_note') throw new Error(`There is no tool '${name}'.`);
  return { saved: true, notes: kept.addNote(input.text) };
}
