// What Swagger UI is given beside its own parts (config/settings.py), so that it can be read by ear and walked by key:
// names of paths and groups that are no links, since the button around or beside them opens the same; a landmark around
// what it says of itself; and the level of headings that it skips.

window.toBeReadByEar = ({ React: { createElement: draw, Fragment } }) => ({
  components: { DeepLink: ({ text }) => draw("span", null, text) },
  wrapComponents: {
    InfoContainer: (Info) => (given) => draw("section", { "aria-label": "About" }, draw(Info, given)),
    operations: (Operations) => (given) =>
      draw(Fragment, null, draw("h2", null, "Requests"), draw(Operations, given)),
  },
});
