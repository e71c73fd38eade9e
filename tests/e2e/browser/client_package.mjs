// Calls a function of a bundle in a page, which is one of the API's own.
export async function clientPackage(visitor, { api, bundle, call, given }, say) {
  const { page } = await visitor();
  await page.goto(`${api}/health`);
  await page.addScriptTag({ path: bundle });
  say(await page.evaluate(([name, argument]) => globalThis[name](argument), [call, given]));
}
