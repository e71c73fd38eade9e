// What is done on the page with useChat. What must be true of it is said in tests/e2e/test_chat_page.py.

export { Visitor } from './chat_visitor.mjs';

export async function reload(visitor, order, say) {
  const me = await visitor();
  await me.page.goto(me.url);
  await me.page.getByLabel('Your name').waitFor();
  await me.screenshot('chat-0-sign-in');
  await me.signIn();
  await me.hold(order.question, (order.tokens * 2) / 3);
  await me.ask(order.question, { ...order, does: 'thinks first' });
  await me.until(600);
  say(await me.shown());
  await me.screenshot('chat-1-writing');
  await me.page.reload();
  await me.until(600);
  say(await me.shown());
  await me.letGo();
  await me.ended('completed');
  const { asked } = me;
  await me.page.reload();
  await me.ended('completed');
  say({ ...(await me.shown()), asked: [asked, me.asked] });
  await me.screenshot('chat-2-complete');
}

/** Asks a question a round, and reloads once the page has this many characters of its answer; 0 is at once.
 *  The answer's last token waits for the reload. */
export async function reloads(visitor, { rounds, moments, question, ...how }, say) {
  const me = await visitor();
  await me.signIn();
  for (let round = 0; round < rounds; round += 1) {
    if (round > 0) await me.button('New chat').click();
    const asked = `${question} ${round}`;
    await me.hold(asked, how.tokens - 1);
    await me.ask(asked, how);
    if (moments[round] > 0) await me.until(moments[round]);
    const [before] = (await me.shown()).answers;
    await me.page.reload();
    await me.letGo();
    await me.ended('completed');
    say({ left: before ?? null, ...(await me.shown()) });
  }
}

/** The second tab comes amid an answer, and then sees the next question and its answer from the first. */
export async function twoTabs(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.hold(order.question, order.tokens / 2);
  await me.ask(order.question, order);
  await me.until(200);
  const tab = await me.anotherTab();
  await tab.until(200);
  await me.letGo();
  await Promise.all([me.ended('completed'), tab.ended('completed')]);
  await me.ask(`${order.question} again`, { ...order, rate: 60 });
  await tab.page.getByText(`${order.question} again`).waitFor();
  await Promise.all([me, tab].map((each) => each.page.locator('.answer').nth(1).waitFor()));
  await Promise.all([me.ended('completed'), tab.ended('completed')]);
  for (const each of [me, tab]) say(await each.shown());
}

export async function stop(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, order);
  await me.until(200);
  await me.button('Stop').click();
  await me.ended('stopped');
  const stopped = await me.shown();
  await me.page.reload();
  await me.ended('stopped');
  say(stopped);
  say(await me.shown());
  await me.screenshot('chat-3-stopped');
}

export async function offline(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.hold(order.question, order.tokens / 4);
  await me.ask(order.question, order);
  await me.until(200);
  await me.page.context().setOffline(true);
  await me.page.getByText('There is no network. The answer goes on').waitFor();
  const { answers: [before] } = await me.shown();
  await me.hold(order.question, (order.tokens * 3) / 4);
  await me.servedBeyond(order.tokens / 2);
  say({ before, at: (await me.shown()).answers[0] });
  await me.screenshot('chat-4-offline');
  await me.letGo();
  await me.page.context().setOffline(false);
  await me.ended('completed');
  say({ ...(await me.shown()), asked: me.asked });
}

/** The network is away until the answer has ended. */
export async function longOffline(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.hold(order.question, order.tokens / 2);
  await me.ask(order.question, order);
  await me.until(200);
  await me.page.context().setOffline(true);
  await me.page.getByText('There is no network. The answer goes on').waitFor();
  await me.letGo();
  await me.served();
  await me.page.context().setOffline(false);
  await me.ended('completed');
  say(await me.shown());
}

/** The service can't be reached when it is asked, and then can. */
export async function down(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.page.route(`${order.api}/**`, (route) => route.abort('connectionrefused'));
  await me.ask(order.question, order);
  await me.page.getByText('The connection is lost. Trying again.').waitFor();
  say({ barriers: await me.barriers() });
  await me.page.unroute(`${order.api}/**`);
  await me.ended('completed');
  say(await me.shown());
}

/** The page comes back while the service can't say what runs. */
export async function refusedReturn(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.hold(order.question, order.tokens / 2);
  await me.ask(order.question, order);
  await me.until(200);
  await me.page.route('**/stream', (route) => route.fulfill({
    status: 503, body: 'Not now.', headers: { 'Access-Control-Allow-Origin': '*' },
  }));
  await me.page.reload();
  await me.page.getByRole('alert').filter({ hasText: 'Not now.' }).waitFor();
  await me.page.unroute('**/stream');
  await me.letGo();
  await me.button('Try again').click();
  await me.ended('completed');
  say(await me.shown());
}

/** A question is asked before the page hears that nothing runs. */
export async function atOnce(visitor, order, say) {
  const me = await visitor();
  const held = new Promise((release) => {
    me.page.route('**/stream', async (route) => {
      const response = await route.fetch();
      await new Promise((over) => release(over));
      await route.fulfill({ response });
    });
  });
  await me.signInOnly();
  const release = await held;
  await me.hold(order.question, order.tokens / 2);
  await me.ask(order.question, order);
  await me.until(200);
  const told = me.page.waitForResponse((response) => response.url().endsWith('/stream'));
  release();
  await told;
  await me.letGo();
  await me.ended('completed');
  await me.drawn();
  say({ ...(await me.shown()), asked: me.asked });
}

/** A call waits for the user, also across a reload while it is written and one after it, and the answer goes on. */
export async function approval(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, { ...order, does: 'wants to save a note' });
  await me.page.locator('.tool[data-state="input-streaming"]').waitFor();
  await me.page.reload();
  await me.button('Allow').waitFor();
  say(await me.shown());
  await me.screenshot('chat-5-approval');
  await me.page.reload();
  await me.button('Allow').waitFor();
  say({ ...(await me.shown()), barriers: await me.barriers() });
  await me.button(order.decision).click();
  await me.page.reload();
  await me.page.locator('.answer > .text').waitFor();
  await me.ended('completed');
  say({ ...(await me.shown()), notes: await me.notes() });
  await me.screenshot(`chat-6-${order.decision}`);
}

export async function regenerate(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, order);
  await me.ended('completed');
  const before = await me.shown();
  say(before);
  await me.button('Answer anew').click();
  await me.page.locator(`.answer:not([data-id="${before.answers[0].id}"])`).waitFor();
  await me.ended('completed');
  const after = await me.shown();
  await me.page.reload();
  await me.ended('completed');
  say({ after, reloaded: await me.shown() });
}

/** An answer fails, and another try succeeds. */
export async function failing(visitor, { does, state, ...order }, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, { ...order, does });
  await me.page.getByRole('alert').filter({ hasText: /./ }).waitFor();
  say({ error: await me.page.getByRole('alert').textContent(), ...(await me.shown()), barriers: await me.barriers() });
  await me.screenshot(`chat-7-${does.replace(' ', '-')}`);
  if (state) await me.page.reload();
  await me.button('Try again').click();
  await me.ended('completed');
  say(await me.shown());
}

/** A picture is sent, and the answer has one, a file and a source. */
export async function files(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.page.getByText('what the model does').click();
  const buffer = Buffer.from(order.picture, 'base64');
  await me.page.getByLabel('Files').setInputFiles({ name: 'dot.png', mimeType: 'image/png', buffer });
  await me.page.getByLabel('Your question').fill(order.question);
  await me.page.getByRole('button', { name: 'Ask', exact: true }).click();
  await me.ended('completed');
  for (let time = 0; time < 2; time += 1) {
    say(await me.page.evaluate(() => ({
      sent: document.querySelector('.question img').src,
      picture: document.querySelector('.answer img').naturalWidth,
      links: [...document.querySelectorAll('.answer a')].map((each) => [each.textContent, each.href]),
    })));
    await me.page.reload();
    await me.ended('completed');
  }
}

/** Everything by keys alone, and nothing that axe or a narrow window objects to. */
export async function keys(visitor, order, say) {
  for (const [width, colorScheme] of [[1280, 'light'], [320, 'dark']]) {
    const me = await visitor({ viewport: { width, height: 800 }, colorScheme });
    const { keyboard } = me.page;
    const found = { width, colorScheme, barriers: [], overflows: false };
    const look = async () => {
      found.barriers.push(...(await me.barriers()));
      found.overflows ||= await me.overflows();
    };
    await me.page.goto(me.url);
    await me.page.getByLabel('Your name').waitFor();
    await look();
    await keyboard.type(`${order.user}-${width}`);
    await keyboard.press('Enter');
    await me.page.getByLabel('Your question').waitFor();
    await look();
    await keyboard.type(order.question);
    await keyboard.press('Enter');
    await me.until(100);
    await look();
    await keyboard.press('Tab');
    await keyboard.press('Enter');
    await me.ended('stopped');
    await look();
    await me.page.screenshot({ path: `${order.screenshots}/chat-8-${width}-${colorScheme}.png` });
    say({ ...found, said: await me.said() });
    await me.page.context().close();
  }
}

/** From either page to the other, signed in on both. */
export async function links(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.page.getByRole('link', { name: 'Callables' }).click();
  await me.page.getByRole('button', { name: /^Sign out/ }).waitFor();
  say(new URL(me.page.url()).pathname);
  await me.page.getByRole('link', { name: 'useChat' }).click();
  await me.page.getByLabel('Your question').waitFor();
  say(new URL(me.page.url()).pathname);
}
