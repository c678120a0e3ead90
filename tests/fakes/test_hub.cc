// The hub of the tests as a program, for trying things by hand.
//
//   test_hub REPO=FOLDER...
//
// Prints its endpoint and the place that large files come from. Then a line "REPO@REVISION=FOLDER"
// on standard input makes a commit, whose name is printed; it ends with its input.
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "tests/fakes/fake_hub.h"

namespace {

// False: it is no "REPO=FOLDER" or "REPO@REVISION=FOLDER".
bool Commit(lorica::FakeHub& hub, const std::string& text, std::string* commit) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return false;
  std::string repo = text.substr(0, equals);
  std::string revision = "main";
  if (const size_t at = repo.find('@'); at != std::string::npos) {
    revision = repo.substr(at + 1);
    repo.resize(at);
  }
  *commit = hub.Commit(repo, lorica::FakeHub::FilesOf(text.substr(equals + 1)), revision);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  lorica::FakeHub hub;
  std::string commit;
  for (int i = 1; i < argc; ++i) {
    if (!Commit(hub, argv[i], &commit)) return 2;
  }
  std::cout << hub.endpoint() << ' ' << hub.cdn_place() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    if (!Commit(hub, line, &commit)) return 2;
    std::cout << commit << std::endl;
  }
  return 0;
}
