// What GrammarTrial and its child say to each other: a format, and a verdict on it.
#pragma once

#include "absl/status/status.h"
#include "server/grammar/response_format.h"

namespace lorica {

// False: the other side has gone, or says what it should not.
bool SendFormat(int socket, const ResponseFormat& format);
bool ReceiveFormat(int socket, ResponseFormat* format);
bool SendVerdict(int socket, const absl::Status& verdict);
bool ReceiveVerdict(int socket, absl::Status* verdict);

}  // namespace lorica
