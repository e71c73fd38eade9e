// The page: signs in, shows one conversation, and keeps one stream open for each of its live answers.
import { follow } from './follow.js';
import { Kept } from './kept.js';
import { Notifications } from './notifications.js';
import { Service } from './service.js';
import { asked, found, isLive, messages } from './turn.js';
import { byId, runningList, stateOf, TurnView } from './view.js';

const LIST_MS = 4_000;
const NEAR_END = 160; // pixels from the end of the page within which it scrolls with the text

const config = await (await fetch('/config.json')).json();
const service = new Service(config);
const notifications = new Notifications(service.app, config);

let kept = null; // null while nobody is signed in
let views = new Map(); // message id → TurnView, of the conversation on the screen
const streams = new Map(); // message id → AbortController

// Signing in and out

byId('sign-in-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  byId('sign-in-error').textContent = '';
  try {
    await service.signIn(byId('name').value.trim());
  } catch (error) {
    byId('sign-in-error').textContent = `You could not be signed in: ${error.message}`;
  }
});

byId('sign-out').addEventListener('click', async () => {
  await notifications.off().catch(() => {}); // or the next user of this browser would be told of answers of this one
  await service.signOut();
});

service.onUser((user) => {
  hangUp();
  kept?.flush();
  kept = user && new Kept(user.uid);
  byId('sign-in').hidden = Boolean(user);
  byId('app').hidden = !user;
  byId('running').replaceChildren();
  complain('');
  if (!user) {
    byId('name').focus();
    return;
  }
  byId('who').textContent = user.uid;
  byId('demo').hidden = config.model !== 'demo';
  const told = new URLSearchParams(location.hash.slice(1)).get('chat'); // a notification opened this page
  if (told) history.replaceState(null, '', location.pathname);
  show(told ?? kept.chat);
  notifications.signedIn(user.uid).then(drawNotify, (error) => say(`Notifications: ${error.message}`));
  byId('question').focus({ preventScroll: true });
  list();
});

// Notifications

byId('notify').addEventListener('click', async () => {
  try {
    if (notifications.on) await notifications.off();
    else await notifications.ask();
    say(notifications.on ? 'You are told of answers that end while you do not look.' : 'Notifications are off.');
  } catch (error) {
    say(`Notifications can't be switched: ${error.message}`);
  }
  drawNotify();
});

function drawNotify() {
  byId('notify').hidden = !notifications.possible;
  byId('notify').setAttribute('aria-pressed', String(notifications.on));
}

notifications.onOpen((chat) => kept && show(chat));

// The conversation

function show(chat) {
  hangUp();
  kept.chat = chat;
  views = new Map();
  byId('turns').replaceChildren();
  for (const turn of kept.turns(chat)) add(turn);
  byId('empty').hidden = views.size > 0;
  reconnect();
  if (views.size > 0) toEnd();
}

function add(turn) {
  const view = new TurnView(turn, { stop, again });
  views.set(turn.id, view);
  byId('turns').append(view.element);
  byId('empty').hidden = true;
  view.draw(lineOf(turn));
  return view;
}

byId('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  const question = byId('question').value.trim();
  if (!question) return;
  const request = { model: config.model, messages: messages(turns(), question) };
  if (config.model === 'demo') {
    request.max_tokens = byId('tokens').valueAsNumber || 600;
    request.demo = { rate: byId('rate').valueAsNumber || 40 };
  }
  const turn = asked(kept.chat, question, request);
  kept.save(turn);
  add(turn);
  byId('question').value = '';
  toEnd();
  reconnect();
});

byId('question').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId('ask').requestSubmit();
});

byId('new-chat').addEventListener('click', () => {
  const chat = kept.newChat();
  // Live answers can be reopened from the list. Ended ones are in Firestore, which this page does not read.
  for (const turn of kept.turns()) if (!isLive(turn)) kept.forget(turn);
  show(chat);
  byId('question').focus();
});

const turns = () => [...views.values()].map((view) => view.turn);

// The streams

const connected = () => byId('connection').checked && navigator.onLine;
const broken = new Set(); // message ids whose connection broke, until data arrives again

function lineOf(turn) {
  if (!connected()) return 'off';
  return broken.has(turn.id) ? 'lost' : 'open';
}

/** Opens a stream for each live answer without one. */
function reconnect() {
  if (!connected() || !kept) return;
  for (const turn of turns()) {
    if (!isLive(turn) || streams.has(turn.id)) continue;
    const controller = new AbortController();
    streams.set(turn.id, controller);
    follow(service, turn, { signal: controller.signal, changed, lost }).finally(() => {
      if (streams.get(turn.id) === controller) streams.delete(turn.id);
    });
  }
}

function hangUp() {
  for (const controller of streams.values()) controller.abort();
  streams.clear();
  broken.clear();
}

const told = new Map(); // message id → the state that was last announced to screen readers

function changed(turn) {
  if (isLive(turn)) kept.saveSoon(turn);
  else kept.save(turn);
  broken.delete(turn.id);
  if (!isLive(turn)) notifications.ended(turn);
  tell(turn);
}

function lost(turn) {
  broken.add(turn.id);
  tell(turn);
}

/** Shows a turn, and announces its state if that has changed. */
function tell(turn) {
  draw(turn);
  const state = stateOf(turn, lineOf(turn));
  if (told.get(turn.id) === state) return;
  told.set(turn.id, state);
  say(isLive(turn) ? `${state}.` : `Answer: ${state}. ${turn.error ?? ''}`.trim());
  list();
}

const due = new Set(); // views to draw in the next frame, because tokens arrive faster than frames

function draw(turn) {
  const view = views.get(turn.id);
  if (!view) return;
  if (due.size === 0) requestAnimationFrame(drawDue);
  due.add(view);
}

function drawDue() {
  for (const view of due) view.draw(lineOf(view.turn));
  due.clear();
  if (following) toEnd();
}

let following = true; // whether the page scrolls with the text

function toEnd() {
  scrollTo(0, document.documentElement.scrollHeight);
}

addEventListener('scroll', () => {
  const page = document.documentElement;
  following = page.scrollHeight - page.clientHeight - page.scrollTop < NEAR_END;
});
addEventListener('resize', () => {
  if (following) toEnd(); // a phone was rotated, or its keyboard opened
});

// Screen readers are told an answer's state, but not its growing text, which would never stop.
function say(what) {
  byId('status').textContent = what;
}

byId('connection').addEventListener('change', lineChanged);
addEventListener('online', lineChanged);
addEventListener('offline', lineChanged);

function lineChanged() {
  const live = turns().some(isLive);
  const rest = live ? ' The answer goes on being written.' : '';
  const what = navigator.onLine ? `You have switched the connection off.${rest}` : `There is no network.${rest}`;
  byId('offline').hidden = connected();
  byId('offline').textContent = connected() ? '' : what;
  for (const button of byId('running').querySelectorAll('button')) button.disabled = !connected();
  if (connected()) {
    say('Connected.');
    reconnect();
    list();
  } else {
    hangUp();
    kept?.flush();
    say(what);
  }
  for (const turn of turns()) draw(turn);
}

async function stop(turn) {
  try {
    await service.stop(turn.generation);
  } catch (error) {
    say(`It could not be stopped: ${error.message}`);
  }
}

async function again(turn) {
  await service.renew().catch(() => {}); // the token may have been refused; other causes show again on the next try
  turn.error = null;
  kept.save(turn);
  draw(turn);
  reconnect();
}

// The list of live answers

let listing = null;

/** Shows the live answers. Only one call runs at a time; if another was requested meanwhile, it follows. */
function list() {
  if (listing) {
    listing.again = true;
    return;
  }
  const call = { again: false };
  listing = call;
  listNow().finally(() => {
    listing = null;
    if (call.again) list();
  });
}

async function listNow() {
  if (!kept || !connected()) return;
  const whose = kept;
  try {
    const generations = await service.running();
    if (kept !== whose) return;
    showRunning(generations);
    complain('');
  } catch (error) {
    if (kept === whose && connected()) complain(`The list could not be got: ${error.message}`);
  }
}

/** Screen readers repeat an alert each time it is written, so the same one is written once. */
function complain(what) {
  if (byId('running-error').textContent !== what) byId('running-error').textContent = what;
}

function showRunning(generations) {
  for (const { messageId, state } of generations) {
    const view = views.get(messageId);
    if (!view || view.turn.waits === (state === 'queued')) continue;
    view.turn.waits = state === 'queued';
    draw(view.turn);
  }
  const list = byId('running');
  const focused = document.activeElement?.closest?.('#running li')?.dataset.generation;
  const which = document.activeElement?.className;
  list.replaceChildren(...runningList(generations, kept.turns(), { open, stop: (each) => stop({ generation: each.id }) }));
  byId('running-none').hidden = generations.length > 0;
  if (!focused) return;
  const same = list.querySelector(`[data-generation="${CSS.escape(focused)}"] .${which}`);
  (same ?? byId('refresh')).focus({ preventScroll: true }); // the entry may be gone: do not lose the focus
}

function open(generation) {
  let turn = kept.turns().find((each) => each.generation === generation.id || each.id === generation.messageId);
  if (!turn) {
    turn = found(generation);
    kept.save(turn);
  }
  if (!views.has(turn.id)) {
    if (turn.chat === kept.chat) {
      add(turn);
      reconnect();
    } else {
      show(turn.chat);
    }
  }
  const { element } = views.get(turn.id);
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: 'nearest' });
}

byId('refresh').addEventListener('click', list);
setInterval(() => {
  if (!document.hidden) list();
}, LIST_MS);
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) list();
});
